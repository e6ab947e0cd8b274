"""All operators of a batch together: the labelled mixture's kinds go or are rescued, clean text stays."""
