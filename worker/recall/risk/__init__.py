"""The risk that a customer orders nothing within the horizon: features, labels, model, trainer, explanation."""
