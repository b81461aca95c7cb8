package doctor

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// certificate says why the endpoint's certificate is refused.
func (w *way) certificate(err *tls.CertificateVerificationError) Finding {
	var leaf *x509.Certificate
	if len(err.UnverifiedCertificates) > 0 {
		leaf = err.UnverifiedCertificates[0]
	}
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknownCA x509.UnknownAuthorityError
	switch {
	case errors.As(err, &host) && leaf != nil:
		return w.wrongHost(leaf)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return w.outOfTime(invalid.Cert)
	case errors.As(err, &unknownCA) && leaf != nil:
		return w.unknownCA(leaf)
	}
	return bad("endpoint", Problem, "tls", fmt.Sprintf("the certificate of %s does not verify: %v", w.host, rootWords(err)), "the server needs another certificate")
}

func (w *way) wrongHost(leaf *x509.Certificate) Finding {
	var list []string
	list = append(list, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		list = append(list, ip.String())
	}
	for_ := cmp.Or(names(list), "no name")
	fix := "write a name that the certificate has into endpoint=, or give the server a certificate for " + hostOnly(w.host)
	if strings.HasPrefix(cmp.Or(first(list), ""), "*.") {
		fix += "; a wildcard stands for one part of a name only, so a bucket with dots in its name needs path_style=true"
	}
	return bad("endpoint", Problem, "tls_wrong_host", fmt.Sprintf("the certificate of %s is for %s", w.host, for_), fix)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func (w *way) outOfTime(c *x509.Certificate) Finding {
	stamp := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
	if w.now.Before(c.NotBefore) {
		return bad("endpoint", Problem, causeNotYet, fmt.Sprintf("the certificate of %s is valid only from %s UTC, and this clock says %s", w.host, stamp(c.NotBefore), stamp(w.now)),
			"set this machine's clock; if it is right, the server's certificate is not")
	}
	return bad("endpoint", Problem, causeExpired, fmt.Sprintf("the certificate of %s expired on %s UTC, and this clock says %s", w.host, stamp(c.NotAfter), stamp(w.now)),
		"renew the server's certificate; if it is good, set this machine's clock")
}

func (w *way) unknownCA(leaf *x509.Certificate) Finding {
	issuer := cmp.Or(leaf.Issuer.CommonName, first(leaf.Issuer.Organization), "an unnamed authority")
	text := fmt.Sprintf("the certificate of %s is issued by %q, which this machine does not trust", w.host, issuer)
	fix := "put that authority's certificate (PEM) into a file and name it: ca=FILE in the bucket's URL, or SSL_CERT_FILE=FILE in the environment"
	if w.ca != "" {
		fix = fmt.Sprintf("%s does not hold that authority: put its certificate (PEM) there, or name another file with ca=FILE or SSL_CERT_FILE", w.ca)
	}
	if w.proxy != nil {
		text = fmt.Sprintf("the proxy %s opens TLS: it shows a certificate for %s issued by %q, which this machine does not trust", w.proxyName(), w.host, issuer)
		return bad("endpoint", Problem, "proxy_tls", text, fix+"; who runs the proxy has it. Or go around the proxy with NO_PROXY="+hostOnly(w.host))
	}
	if public(w.host) {
		return bad("endpoint", Problem, "proxy_tls", text+": something on the way opens TLS", fix+"; who runs this network's proxy has it")
	}
	return bad("endpoint", Problem, "tls_unknown_ca", text, fix)
}

// public reports whether host belongs to a cloud whose certificates every
// system trusts.
func public(host string) bool {
	for _, domain := range []string{".amazonaws.com", ".windows.net", ".googleapis.com", ".core.windows.net"} {
		if strings.HasSuffix(hostOnly(host), domain) {
			return true
		}
	}
	return false
}
