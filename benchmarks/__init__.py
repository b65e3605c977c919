"""What the product achieves, beside its peers; run from the checkout, and in no wheel."""
