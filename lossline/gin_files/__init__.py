"""gin: components with checked types, and files read once for many option trees."""
