"""Values as a store keeps them: JSON, and files for the rest."""
