package pki

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestServerToken(t *testing.T) {
	s := New(t.TempDir())
	if _, err := s.Ensure(Spec{}); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(s.CertFile(ServerCA))
	if err != nil {
		t.Fatal(err)
	}
	token, err := NewServerToken(ca)
	if err != nil {
		t.Fatal(err)
	}
	text := token.Encode()
	got, err := ParseServerToken(" " + text + "\n")
	if err != nil || got != token {
		t.Errorf("%v became %v, %v", token, got, err)
	}
	if _, err := got.VerifyCA(ca); err != nil {
		t.Error(err)
	}
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%#v", token), fmt.Sprintf("%+v", token)} {
		if strings.Contains(shown, token.Secret) || strings.Contains(shown, token.Key) {
			t.Errorf("%s shows a secret", shown)
		}
	}
	if _, err := ParseToken(text); err == nil {
		t.Error("a server token was taken for one of nodes")
	}
	for what, bad := range map[string]string{
		"another token": token.Token.Encode(),
		"cut off":       text[:len(text)-1],
		"without a key": text[:len(text)-33],
		"empty":         "",
		"bad secret":    strings.Replace(text, token.Secret, "short", 1),
	} {
		if _, err := ParseServerToken(bad); err == nil {
			t.Errorf("%s: no error", what)
		} else if strings.Contains(err.Error(), token.Key) || strings.Contains(err.Error(), token.Secret) {
			t.Errorf("%s: the error shows a secret: %v", what, err)
		}
	}

	sealed, err := token.Seal([]byte("the CA's key"))
	if err != nil || bytes.Contains(sealed, []byte("CA")) {
		t.Fatalf("sealed: %q, %v", sealed, err)
	}
	if data, err := got.Open(sealed); err != nil || string(data) != "the CA's key" {
		t.Errorf("opened: %q, %v", data, err)
	}
	other, err := NewServerToken(ca)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(sealed); err == nil {
		t.Error("another token opens it")
	}
	sealed[len(sealed)-1] ^= 1
	for _, damaged := range [][]byte{sealed, sealed[:3], nil} {
		if _, err := token.Open(damaged); err == nil {
			t.Error("what was altered is opened")
		}
	}
}
