"""`clipctl data bench`: how fast a data set loads, stage by stage."""
