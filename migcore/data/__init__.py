"""From folders, films and annotation files to batches of clips.

``layouts`` names keypoints, bones and CSV columns; ``files`` reads and writes the per-video CSVs; ``imigue`` turns a
folder into an index of clips; ``annotations`` reads the organisers' arrays and pyskl's pickles; ``video`` decodes and
writes films; ``sampling`` and ``augment`` choose frames and move coordinates and pixels; ``datasets`` puts them
together.
"""
