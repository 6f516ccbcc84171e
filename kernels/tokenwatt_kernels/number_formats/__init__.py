"""Number formats of quantised weights and activations: how numbers become codes and scales, and back. Plain torch."""
