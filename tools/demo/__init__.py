"""`xenpv demo`: the main job, end to end, with real input.

    image.py     the image: the one given, or real files of this machine packed into one
    guest.py     the program that a guest runs: all it has is its domain's directory
    run.py       the emulated Xen, the backend and the guests, from start to end
    report.py    what people read
"""
