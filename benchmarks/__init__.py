"""What the product reaches, beside its peers; run from the checkout, and in no wheel."""
