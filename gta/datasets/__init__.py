"""Readers: one module a data set, each turning the official files into one index of images."""
