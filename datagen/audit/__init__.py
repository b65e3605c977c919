"""What a person looks at: pictures, the report, explanations and comparisons."""
