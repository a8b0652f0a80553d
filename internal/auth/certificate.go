package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// CertificateFrom says what in a client's certificate is the name of its user, as
// RabbitMQ's ssl_cert_login_from.
type CertificateFrom string

// The values of CertificateFrom.
const (
	FromCommonName        CertificateFrom = "common_name"
	FromDistinguishedName CertificateFrom = "distinguished_name"       // CN=app,O=example (RFC 4514)
	FromAlternativeName   CertificateFrom = "subject_alternative_name" // the first DNS name, else e-mail address, else URI
)

// ParseCertificateFrom reads one.
func ParseCertificateFrom(text string) (CertificateFrom, error) {
	switch f := CertificateFrom(text); f {
	case FromCommonName, FromDistinguishedName, FromAlternativeName:
		return f, nil
	}
	return "", fmt.Errorf("%.64q is none of %s, %s and %s", text, FromCommonName, FromDistinguishedName, FromAlternativeName)
}

// CertificateName is the name of the user whose certificate it is, which must have
// been verified. The zero from is FromCommonName.
func CertificateName(c *x509.Certificate, from CertificateFrom) (string, error) {
	name := c.Subject.CommonName
	switch from {
	case FromDistinguishedName:
		name = c.Subject.String()
	case FromAlternativeName:
		switch name = ""; {
		case len(c.DNSNames) > 0:
			name = c.DNSNames[0]
		case len(c.EmailAddresses) > 0:
			name = c.EmailAddresses[0]
		case len(c.URIs) > 0:
			name = c.URIs[0].String()
		}
	}
	if name == "" {
		return "", errors.New("the certificate has no name of that kind")
	}
	return name, nil
}
