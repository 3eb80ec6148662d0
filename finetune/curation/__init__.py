"""Classic learning on the vectors of a data set, by scikit-learn: what stands out, what repeats, what is good, and what
random selection of the same size would give.

Functions take arrays and know nothing of rows. N vectors of D dimensions have unit length, so that their product is
their cosine similarity; they may be of float16 and lie on disk (`numpy.memmap`): they are read in blocks.

blocks.py      vectors read in blocks, and seeded samples of them
neighbours.py  distance to the k-th neighbour, the nearest vector of another set, coverage
outliers.py    the farthest share; Isolation Forest as a second opinion
clusters.py    k-means, balanced subsets
duplicates.py  semantic duplicates within clusters
quality.py     a classifier from a few labels
chance.py      what random selection gives
projection.py  t-SNE and PCA in two dimensions, and how far to trust them; cluster_words.py names clusters
map_page.py    the map as one HTML page, from templates/
outside.py     how far new rows lie outside a set
needed.py      is a language model needed? what classic classifiers reach
classic_lab.py `finetune lab classic`: classic_digits.py, classic_failures.py and classic_plots.py serve it
"""
