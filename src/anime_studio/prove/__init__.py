"""`anime-studio prove`: rows that are checked on the real thing, their pictures, and the report of them."""
