"""The typed sections of params.yaml: one module and one class a section."""
