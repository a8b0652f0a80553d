package netserve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// reloadCheck is how often the files are looked at, at most.
const reloadCheck = time.Second

// Certificates are what the server shows in TLS handshakes, and what it asks of
// its peers. They are read again when their files change. Its methods may be
// called at the same time.
type Certificates struct {
	files TLSFiles
	log   *slog.Logger

	outer   *tls.Config // keeps the session tickets' keys over reloads
	current atomic.Pointer[loaded]
	checked atomic.Int64 // when the files were looked at last, nanoseconds after start
	start   time.Time
}

// TLSFiles name the PEM files.
type TLSFiles struct {
	Cert, Key string
	// CA has the authorities that may sign peers' certificates; "" if none is
	// asked for.
	CA string
	// RequirePeer refuses peers that show no certificate; else one that is shown
	// is verified, and none is needed. It wants CA.
	RequirePeer bool
}

// loaded is one state of the files.
type loaded struct {
	config *tls.Config
	stamps [3]stamp // what was read
	failed [3]stamp // what could not be read, and was complained of
}

type stamp struct {
	modified int64
	size     int64
}

// LoadCertificates reads the files. TLS before 1.2 is refused (RFC 8996). log is
// told when a later state of the files cannot be used: the earlier one is then
// kept; nil is for nobody.
func LoadCertificates(files TLSFiles, log *slog.Logger) (*Certificates, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{files: files, log: log, start: time.Now()}
	if files.RequirePeer && files.CA == "" {
		return nil, errors.New("load TLS certificates: peers must show one, but no authority is given to verify it")
	}
	stamps := files.stamps()
	config, err := files.load()
	if err != nil {
		return nil, fmt.Errorf("load TLS certificates: %w", err)
	}
	c.current.Store(&loaded{config: config, stamps: stamps})
	c.outer = &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.latest(), nil
		},
	}
	return c, nil
}

func (c *Certificates) config() *tls.Config { return c.outer }

// latest returns the configuration for one handshake. Once a second one of those
// who call it looks whether the files have changed; the others go on with what
// there is.
func (c *Certificates) latest() *tls.Config {
	l := c.current.Load()
	now, last := int64(time.Since(c.start)), c.checked.Load()
	if now-last < int64(reloadCheck) || !c.checked.CompareAndSwap(last, now) {
		return l.config
	}
	stamps := c.files.stamps() // before reading: a change in between is seen next time
	if stamps == l.stamps || stamps == l.failed {
		return l.config
	}
	config, err := c.files.load()
	if err != nil {
		c.log.Error("the TLS certificates have changed and cannot be loaded; the earlier ones stay in use",
			"cert", c.files.Cert, "key", c.files.Key, "ca", c.files.CA, "error", err)
		// Not remembered as final: half of a change may be there. The next
		// difference in the files is looked at again.
		c.current.Store(&loaded{config: l.config, stamps: l.stamps, failed: stamps})
		return l.config
	}
	c.log.Info("TLS certificates loaded", "cert", c.files.Cert)
	c.current.Store(&loaded{config: config, stamps: stamps})
	return config
}

func (f TLSFiles) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if f.CA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, err
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in PEM form found", f.CA)
	}
	config.ClientAuth = tls.VerifyClientCertIfGiven
	if f.RequirePeer {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

func (f TLSFiles) stamps() (s [3]stamp) {
	for i, name := range []string{f.Cert, f.Key, f.CA} {
		if name == "" {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			s[i] = stamp{info.ModTime().UnixNano(), info.Size()}
		}
	}
	return s
}

// Ends are when the certificates end that are shown now.
func (c *Certificates) Ends() []time.Time {
	var ends []time.Time
	for _, cert := range c.current.Load().config.Certificates {
		if cert.Leaf != nil {
			ends = append(ends, cert.Leaf.NotAfter)
		}
	}
	return ends
}
