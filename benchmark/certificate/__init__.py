"""The certificate: what every metric must find where the right answer is a formula."""
