"""Scripts behind single findings of the documents; the package never imports them."""
