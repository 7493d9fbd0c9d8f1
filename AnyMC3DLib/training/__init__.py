"""Training and evaluating plugins. Only here are MONAI and scikit-learn needed."""
