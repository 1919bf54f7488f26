"""Sand: scenes, tiles, training and pictures of the microplastic study."""
