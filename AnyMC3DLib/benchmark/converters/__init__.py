"""Tables of labelled cases from the folders that public data sets are published as, one file for each layout."""

KINDS = ("rsna-abdominal", "ct-rate", "mrnet", "medmnist", "folder")
