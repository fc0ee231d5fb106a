package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/edgebox/edgebox/pkg/durable"
)

// MachineAnnotation is on CertificateSigningRequests: which machine asks, as Machine.Sign writes it.
const MachineAnnotation = "edgebox.internal/machine"

// Reasons for which a server denies a CertificateSigningRequest, where the one who asked can do something about it.
const (
	DeniedName    = "NodeNameTaken"  // join under another name, or with a token that may rejoin
	DeniedAddress = "AddressRefused" // ask for a certificate without addresses
)

// Changing either of these makes every machine another one.
const (
	machineSeed  = "edgebox machine identity 1"
	machineProof = "edgebox machine 1 asks for node "
)

// A Machine is the identity of this computer, whatever runs on it: who joined as a node once may join so again. It says
// nothing of whether the machine may join, which tokens are for, and is no secret towards those who are root on it. The
// private key is in memory alone.
type Machine struct{ key ed25519.PrivateKey }

var machineIDForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// LoadMachine derives the identity of the machine whose file system is at root: from /etc/machine-id and the serial number
// of the hardware, so that edgebox may be installed again, and a memory card that was copied to another board is another
// machine. Where there is no machine-id, random bytes are made and kept in file; they count as long as the file exists.
func LoadMachine(root, file string) (Machine, error) {
	id, err := readSeed(file)
	if err == nil && id == "" {
		id, err = readMachineID(filepath.Join(root, "etc/machine-id"))
	}
	if err == nil && id == "" {
		id, err = makeSeed(file)
	}
	if err != nil {
		return Machine{}, fmt.Errorf("identify this machine: %w", err)
	}
	mac := hmac.New(sha256.New, []byte(machineSeed))
	mac.Write([]byte(id + "\n" + hardwareSerial(root)))
	return Machine{ed25519.NewKeyFromSeed(mac.Sum(nil))}, nil
}

// readMachineID returns "" where there is none, or one that waits for the first boot or for whoever made the image.
func readMachineID(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := strings.TrimSpace(string(data))
	if !machineIDForm.MatchString(id) || strings.Trim(id, "0") == "" {
		return "", nil
	}
	return id, nil
}

// hardwareSerial is in lower case, since kernels differ in how they print the same UUID.
func hardwareSerial(root string) string {
	for _, path := range []string{"sys/class/dmi/id/product_uuid", "proc/device-tree/serial-number"} {
		data, err := os.ReadFile(filepath.Join(root, path))
		if serial := string(bytes.Trim(data, "\x00 \n")); err == nil && serial != "" {
			return strings.ToLower(serial)
		}
	}
	return ""
}

const seedSize = 32

func readSeed(file string) (string, error) {
	data, err := readFile(file)
	if data == nil {
		return "", err
	}
	text := strings.TrimSpace(string(data))
	if seed, err := hex.DecodeString(text); err != nil || len(seed) != seedSize {
		return "", &FileError{Path: file, Problem: "is not 64 hex digits", Fix: "restore it, or remove it and join as a new machine"}
	}
	return text, nil
}

func makeSeed(file string) (string, error) {
	seed := make([]byte, seedSize)
	rand.Read(seed) // never fails
	text := hex.EncodeToString(seed)
	if err := durable.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	return text, durable.WriteFile(file, []byte(text+"\n"), 0o600)
}

// ID names the machine: the SHA-256 of its public key in hex.
func (m Machine) ID() string { return machineID(m.key.Public().(ed25519.PublicKey)) }

// String is ID, so that no format shows the key.
func (m Machine) String() string { return m.ID() }

// GoString is ID.
func (m Machine) GoString() string { return m.ID() }

// Sign returns the MachineAnnotation of a certificate request (PKCS#10, DER) for the node of that name. It is worth nothing
// on another request.
func (m Machine) Sign(node string, csrDER []byte) string {
	public := m.key.Public().(ed25519.PublicKey)
	signature := ed25519.Sign(m.key, machineMessage(node, csrDER))
	return base64.StdEncoding.EncodeToString(public) + "." + base64.StdEncoding.EncodeToString(signature)
}

// VerifyMachine returns the ID of the machine that signed a certificate request for the node of that name.
func VerifyMachine(annotation, node string, csrDER []byte) (id string, err error) {
	key, sig, ok := strings.Cut(annotation, ".")
	if !ok {
		return "", errors.New("it has not two parts")
	}
	public, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return "", errors.New("its first part is not an Ed25519 public key in base64")
	}
	signature, err := base64.StdEncoding.DecodeString(sig)
	if err != nil || len(signature) != ed25519.SignatureSize {
		return "", errors.New("its second part is not an Ed25519 signature in base64")
	}
	if !ed25519.Verify(public, machineMessage(node, csrDER), signature) {
		return "", errors.New("its signature is not for this request")
	}
	return machineID(public), nil
}

func machineMessage(node string, csrDER []byte) []byte {
	return append(fmt.Appendf(nil, "%s%d:%s", machineProof, len(node), node), csrDER...)
}

func machineID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:])
}
