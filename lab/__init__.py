"""What one does with trained models: look into them, compare them, time them."""
