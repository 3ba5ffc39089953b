"""The library of the book: small PyTorch modules to read, run and take apart.

One concept has one word: `lib/feed_forward.py` is the code of the chapter `book/feed_forward.ipynb`, and
`tests/test_feed_forward.py` is its proof. Import the module you need; nothing is re-exported here.

Parts, which use nothing of lib, not even each other
    feed_forward     What does a token work out alone? Plain, gated, and mixture of experts.

Practice, which puts them to work
    pronunciation    How is a word pronounced? The words of the CMU Pronouncing Dictionary, and their split.
    training         How does a network learn? One loop for every training run.

Looking
    record           What happened inside? The outputs of named submodules during a real forward pass.
    plots            How does the book draw? Tensors and an axis in, the axis out.
    explore          What changes if ...? One drawing function with controls, live and on the printed page.

Checking
    checks           Is my answer right? A verdict for each exercise, one module per chapter.

Ground
    device           Where does it run, on how many threads, and from which seed?
    costs            What does it cost? Parameters and FLOPs, as PyTorch itself counts them.
"""
