"""The penalties that a method may add to the cross-entropy: one module a penalty."""
