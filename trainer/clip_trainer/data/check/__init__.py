"""`clipctl data check` and `stats`: what is in a data set."""
