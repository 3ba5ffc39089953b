"""Is my answer right? A verdict for each exercise, one module per chapter.

`verdict` holds what all chapters share: running a reader's function safely, comparing, naming the mistake, showing it.
"""
