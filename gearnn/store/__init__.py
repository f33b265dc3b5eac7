"""Where results are kept: files, folders, buckets, tables, and what commands write for people."""
