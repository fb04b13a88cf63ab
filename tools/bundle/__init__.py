"""Boot bundles: one file, many images, which guests see as the partitions of one disk. docs/bundle.md is the format.

To read one: `open_bundle(path)` for a file or a block device, `Bundle(DiskSource(disk))` for a vbd through our frontend.
"""
