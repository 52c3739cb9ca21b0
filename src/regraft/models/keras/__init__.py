"""Networks of `keras.applications` as timm models, and their weights from Keras's files."""
