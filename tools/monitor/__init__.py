"""What a backend's disks do, shown: live, as a picture, and for Prometheus. Nothing here asks the backend.

    source.py      the statistics pages and latency histograms of every vbd, read at one moment
    interval.py    what a vbd did between two such moments
    view.py        `xenpv top`: the columns, and which of them fit
    live.py        its loop, for a terminal (terminal.py) or in lines
    recording.py   a file of intervals, bounded in size
    heatmap.py, picture.py   a recording as a picture
    exporter.py    the counters and histograms for Prometheus
"""
