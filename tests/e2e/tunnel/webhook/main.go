// Command webhook is an admission webhook in a pod: it refuses objects that have the label refuse and gives all others an
// annotation. Its certificate, which it makes for the name in its argument, is the first thing that it prints.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log"
	"math/big"
	"net/http"
	"os"
	"time"
)

// review is the part of an AdmissionReview (admission.k8s.io/v1) that is needed here.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID    string `json:"uid"`
	Object struct {
		Metadata struct {
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	} `json:"object"`
}

type response struct {
	UID       string            `json:"uid"`
	Allowed   bool              `json:"allowed"`
	Status    map[string]string `json:"status,omitempty"`
	Patch     []byte            `json:"patch,omitempty"`
	PatchType string            `json:"patchType,omitempty"`
}

func main() {
	certificate, err := makeCertificate(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if err := pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}); err != nil {
		log.Fatal(err)
	}
	s := &http.Server{
		Addr: ":8443", Handler: http.HandlerFunc(admit), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
	}
	log.Fatal(s.ListenAndServeTLS("", ""))
}

func admit(w http.ResponseWriter, r *http.Request) {
	var in review
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	out := response{UID: in.Request.UID, Allowed: true}
	object := in.Request.Object.Metadata
	if _, refuse := object.Labels["refuse"]; refuse {
		out.Allowed, out.Status = false, map[string]string{"message": "refused by the webhook, as asked for"}
	} else {
		path, value := "/metadata/annotations", any(map[string]string{"seen": "yes"})
		if object.Annotations != nil {
			path, value = path+"/seen", "yes"
		}
		out.PatchType = "JSONPatch"
		out.Patch, _ = json.Marshal([]any{map[string]any{"op": "add", "path": path, "value": value}}) // never fails
	}
	_ = json.NewEncoder(w).Encode(review{APIVersion: in.APIVersion, Kind: in.Kind, Response: &out})
}

func makeCertificate(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
