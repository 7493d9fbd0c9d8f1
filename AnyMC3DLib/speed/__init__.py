"""How fast the engine is: ratios to the pure backbone and to what a user would write with timm and peft."""
