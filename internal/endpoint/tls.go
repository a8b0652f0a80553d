package endpoint

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TLSConfig is how to encrypt the connection to the endpoint, or nil if its
// scheme is a plain one. The files are read anew by each call, so that one
// call for each attempt follows certificates that are replaced. What it
// returns is the caller's.
//
// The least version is TLS 1.2. Without CACertFile the system's authorities
// are trusted. The client shows a certificate only if there are both CertFile
// and KeyFile. An error names the file.
func (e Endpoint) TLSConfig() (*tls.Config, error) {
	if s, _ := schemeOf(e.Scheme); !s.tls {
		return nil, nil
	}
	config, err := e.tlsConfig()
	if err != nil {
		return nil, fmt.Errorf("TLS to %s: %w", e.Address(), err)
	}
	return config, nil
}

func (e Endpoint) tlsConfig() (*tls.Config, error) {
	name := e.ServerName
	if name == "" {
		name, _, _ = strings.Cut(e.Host, "%") // certificates know no zones
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	switch e.Verify {
	case VerifyPeer, "":
	case VerifyNone:
		config.InsecureSkipVerify = true
	default:
		return nil, errors.New("verify must be " + VerifyPeer + " or " + VerifyNone)
	}
	if e.CACertFile != "" {
		text, err := os.ReadFile(e.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("read the authorities' certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", e.CACertFile)
		}
	}
	switch {
	case e.CertFile == "" && e.KeyFile == "":
		return config, nil
	case e.CertFile == "" || e.KeyFile == "":
		return nil, errors.New("certfile and keyfile are needed together")
	}
	certificate, err := e.certificate()
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{certificate}
	return config, nil
}

func (e Endpoint) certificate() (tls.Certificate, error) {
	chain, err := os.ReadFile(e.CertFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the client's certificate: %w", err)
	}
	key, err := os.ReadFile(e.KeyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the client's key: %w", err)
	}
	if key, err = plainKey(key, e.KeyPassword); err != nil {
		return tls.Certificate{}, fmt.Errorf("client's key %s: %w", e.KeyFile, err)
	}
	certificate, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("client's certificate %s with key %s: %w", e.CertFile, e.KeyFile, err)
	}
	return certificate, nil
}

// plainKey is the text of a PEM file with its first private key decrypted, if
// it is not plain already.
func plainKey(text []byte, password string) ([]byte, error) {
	for rest := text; ; {
		var block *pem.Block
		switch block, rest = pem.Decode(rest); {
		case block == nil:
			return text, nil // no key at all is for X509KeyPair to say
		case block.Type == "ENCRYPTED PRIVATE KEY":
			if password == "" {
				return nil, errors.New("is encrypted: give its password with the parameter password=")
			}
			der, err := decryptPKCS8(block.Bytes, password)
			if err != nil {
				return nil, err
			}
			return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
		case strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			// RFC 1421's, which no integrity check protects.
			return nil, fmt.Errorf("is encrypted in the old way of OpenSSL, %w", errCipher)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return text, nil
		}
	}
}
