"""What a report offers besides pictures: a study to explore, and words for what figures show."""
