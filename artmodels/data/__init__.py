"""Readers of folders, tables, Pascal VOC and the papers' layouts."""
