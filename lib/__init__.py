"""The library of the book: small PyTorch modules to read, run and take apart.

One concept has one word: `lib/feed_forward.py` is the code of the chapter `book/feed_forward.ipynb`, and
`tests/test_feed_forward.py` is its proof. Import the module you need; nothing is re-exported here.

Parts, which use nothing of lib, not even each other
    feed_forward     What does a token work out alone? Plain, gated, and mixture of experts.
    residual         How does a gradient survive sixty layers? Ways to add what a layer says to what was there.
    norms            What is averaged over what? Layer, batch and root-mean-square normalisation.
    attention        How do tokens exchange information? Scaled dot products, several heads, a cache.
    masks            Who may look at whom? True = may attend.
    positions        Where does a token stand? Sinusoids, learned vectors, rotations.

Assembly, which puts them together
    blocks           How do the parts make a layer? Encoder, decoder and parallel blocks, and stacks in any order.
    transformer      What does the whole machine look like? Encoder, decoder, both together, and the language model.
    published        What did the famous ones look like? The Transformer, BERT and GPT-2, and how to load their weights.

Practice, which puts them to work
    tasks            What is there to learn when nothing is to be known? Copy, reverse, sort.
    pronunciation    How is a word pronounced? The words of the CMU Pronouncing Dictionary, and their split.
    training         How does a network learn? One loop for every training run.
    decoding         How does a model write? Greedy, sampled, by beam.
    metrics          How wrong is a pronunciation? Counted in phonemes, and in words.

Looking
    record           What happened inside? The outputs of named submodules during a real forward pass.
    plots            How does the book draw? Tensors and an axis in, the axis out.
    explore          What changes if this number does? One drawing function with controls, with and without a kernel.

Checking
    checks           Is my answer right? A verdict for each exercise, one module per chapter.

Ground
    device           Where does it run, on how many threads, and from which seed?
    costs            What does it cost? Parameters and FLOPs, as PyTorch itself counts them.
"""
