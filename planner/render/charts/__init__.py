"""One set of charts in the words of Vega-Lite: for pages, where colours follow the reader's scheme, and for files."""
