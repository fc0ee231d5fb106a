package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	s := newStore(t)
	s.ensure(t, nil)
	caPEM, err := os.ReadFile(s.CertFile(ServerCA))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := NewToken(caPEM)
	if err != nil {
		t.Fatal(err)
	}
	spki, _ := x509.MarshalPKIXPublicKey(s.cert(t, ServerCA).PublicKey)
	sum := sha256.Sum256(spki)
	if want := "EB1" + hex.EncodeToString(sum[:]) + "::" + tok.ID + "." + tok.Secret; tok.Encode() != want {
		t.Errorf("encoded %s, want %s", tok.Encode(), want)
	}
	back, err := ParseToken("\n " + tok.Encode() + "\r\n")
	if err != nil || back != tok {
		t.Errorf("parsed %v, %v", back, err)
	}
	trusted, err := back.VerifyCA(append([]byte("a comment\n"), caPEM...))
	if err != nil || string(trusted) != string(caPEM) {
		t.Errorf("VerifyCA: %q, %v", trusted, err)
	}
	// A CA that was prolonged is the same CA.
	s.set(today.Add(caValidity))
	s.ensure(t, nil)
	caPEM2, _ := os.ReadFile(s.CertFile(ServerCA))
	if _, err := tok.VerifyCA(caPEM2); err != nil || string(caPEM) == string(caPEM2) {
		t.Errorf("after prolongation: %v", err)
	}

	for _, format := range []string{"%v", "%s", "%+v", "%#v", "%q"} {
		if out := fmt.Sprintf(format, tok); strings.Contains(out, tok.Secret) || !strings.Contains(out, tok.ID) {
			t.Errorf("%s shows %s", format, out)
		}
	}
	if other, _ := NewToken(caPEM); other.Secret == tok.Secret || other.ID == tok.ID || other.CAHash != tok.CAHash {
		t.Errorf("not random: %v, %v", tok, other)
	}
	if _, err := NewToken(nil); err == nil {
		t.Error("a token for no CA")
	}
}

func TestVerifyCARefuses(t *testing.T) {
	genuine := issue(t, nil, ecKey(), "genuine", nil)
	evil := issue(t, nil, ecKey(), "evil", nil)
	crossed := issue(t, evil, genuine.key, "genuine", nil) // the genuine public key, in a certificate by evil
	tok, err := NewToken(certPEM(genuine))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pem     []byte
		tok     Token
		trusted []byte // nil: refused
	}{
		"genuine":           {certPEM(genuine), tok, certPEM(genuine)},
		"evil added":        {certPEM(genuine, evil), tok, certPEM(genuine)},
		"evil as issuer":    {certPEM(crossed, evil), tok, certPEM(crossed)}, // trusts the genuine key only
		"evil":              {certPEM(evil), tok, nil},
		"evil before":       {certPEM(evil, genuine), tok, nil},
		"nothing":           {nil, tok, nil},
		"no hash":           {certPEM(genuine), Token{ID: tok.ID, Secret: tok.Secret}, nil},
		"html of a captive": {[]byte("<html>"), tok, nil},
	} {
		trusted, err := tc.tok.VerifyCA(tc.pem)
		if string(trusted) != string(tc.trusted) || (err == nil) != (tc.trusted != nil) {
			t.Errorf("%s: %q, %v", name, trusted, err)
		}
		if err != nil && strings.Contains(err.Error(), tok.Secret) {
			t.Errorf("%s: the error tells the secret", name)
		}
	}
	_, err = tok.VerifyCA(certPEM(evil))
	wantError(t, err, "another CA", tok.CAHash, "impostor")
}

func TestParseTokenRefuses(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	const secret = "abcdef.0123456789abcdef"
	if _, err := ParseToken("EB1" + hash + "::" + secret); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                               "is empty",
		" \n":                            "is empty",
		secret:                           "has no CA hash",
		"K10" + hash + "::server:xyz":    "one of k3s",
		hash + "::" + secret:             "does not begin with EB1",
		"eb1" + hash + "::" + secret:     "does not begin with EB1",
		"EB1" + hash:                     `no "::"`,
		"EB1" + hash + ":" + secret:      `no "::"`,
		"EB1" + hash[1:] + "::" + secret: "CA hash of 63 characters",
		"EB1" + strings.ToUpper(hash) + "::" + secret: "lower case",
		"EB1::" + secret:                       "CA hash of 0 characters",
		"EB1" + hash + "::":                    "does not end in a bootstrap token",
		"EB1" + hash + "::" + secret[:22]:      "does not end in a bootstrap token",
		"EB1" + hash + "::" + secret + "0":     "does not end in a bootstrap token",
		"EB1" + hash + "::ABCDEF" + secret[6:]: "does not end in a bootstrap token",
		"EB1" + hash + "::" + secret + "\nEB1": "does not end in a bootstrap token",
	} {
		tok, err := ParseToken(in)
		if err == nil || tok != (Token{}) {
			t.Errorf("%q: %v, %v", in, tok, err)
			continue
		}
		wantError(t, err, want)
		if strings.Contains(err.Error(), "0123456789abcde") {
			t.Errorf("%q: the error tells the secret: %v", in, err)
		}
	}
	tok, err := ParseBootstrapToken(secret + "\n")
	if err != nil || tok.Encode() != secret || tok.String() != "abcdef.****************" {
		t.Errorf("%v, %v", tok, err)
	}
}

func FuzzParseToken(f *testing.F) {
	for _, s := range []string{"", "EB1::", "EB1" + strings.Repeat("0", 64) + "::abcdef.0123456789abcdef", "abcdef.0123456789abcdef"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if tok.Encode() != strings.TrimSpace(s) {
			t.Errorf("%q became %q", s, tok.Encode())
		}
		if again, err := ParseToken(tok.Encode()); err != nil || again != tok {
			t.Errorf("%q is not stable: %v", s, err)
		}
	})
}

func TestRandomText(t *testing.T) {
	counts := map[rune]int{}
	for range 1000 {
		for _, r := range randomText(36) {
			counts[r]++
		}
	}
	for r, n := range counts {
		if n < 800 || n > 1200 {
			t.Errorf("%q came %d times, want about 1000", r, n)
		}
	}
	if len(counts) != 36 {
		t.Errorf("%d characters, want 36", len(counts))
	}
}
