"""Floor 4: experiments, recipes, the judge and the engines that run them."""
