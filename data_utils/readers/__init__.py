"""Files of every kind and hub datasets in, documents out."""
