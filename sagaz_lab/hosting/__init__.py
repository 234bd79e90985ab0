"""The loop a Lab lives on, its resources, its views."""
