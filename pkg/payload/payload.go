// Package payload is how the one file `edgebox` is made and unpacked: a small
// front executable, followed by everything else that the product runs (the
// node, kubectl, runc, nft, …) as compressed chunks.
//
// The file, from its start:
//
//	front    the ELF executable that the user runs
//	chunks   zstd frames, each an independent piece of one file
//	index    JSON: per file its name, mode, size, SHA-256 and chunks
//	footer   64 bytes: magic, where chunks and index begin, SHA-256 of the index
//
// Chunks let one big file be decompressed and checked on all cores. Every chunk's
// SHA-256 is in the index, and the index's own SHA-256 names the directory that
// files are unpacked into, so one hash stands for all of it. The payload is
// appended to the front and not embedded by the compiler: a plain `go build`
// needs no artefact and gives a front that works without one (ErrNoPayload).
//
// On disk the package owns one directory, given by the caller:
//
//	<dir>/<hash16>/<name>      the files of one payload
//	<dir>/<hash16>/.verified   which of them are known to be whole, see marker
//	<dir>/current, previous    symlinks set by Activate
//	<dir>/.lock                flock'ed by whoever writes in <dir>
//
// It is linked into the front, which must start within milliseconds: it imports
// the standard library, zstd, x/sys and durable only, and starts goroutines only
// within a call.
package payload

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoPayload says that the file is an edgebox front without a payload, such as
// a plain `go build ./cmd/edgebox` makes.
var ErrNoPayload = errors.New("this edgebox was built without its payload")

// DamagedError says that a packed file is not what Pack wrote: cut short by a
// broken download, or changed on disk.
type DamagedError struct {
	Path   string
	Reason string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is damaged (%s): download it again", e.Path, e.Reason)
}

// A File is one file of a payload.
type File struct {
	Name   string      `json:"name"`
	Mode   fs.FileMode `json:"mode"` // 0755 or 0644
	Size   int64       `json:"size"`
	SHA256 string      `json:"sha256"`
}

// entry is a File with where its content is; the index is a list of entries.
type entry struct {
	File
	Chunks []chunk `json:"chunks"`
}

// chunk is one zstd frame. Where its content belongs in the file follows from the
// sizes of the chunks before it.
type chunk struct {
	Offset     int64  `json:"offset"` // from the first chunk of the payload
	Compressed int64  `json:"compressed"`
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"`
}

const (
	// chunkSize is how much of a file one frame holds. Bigger compresses
	// better, smaller lets more cores share a file; each worker needs this
	// much memory.
	chunkSize = 8 << 20

	maxIndexSize = 16 << 20
)

// footer ends a packed file. All integers are little-endian. Offsets of chunks
// count from Start, so the index, and with it the hash, does not depend on the
// size of the front.
type footer struct {
	Magic     [8]byte
	Start     uint64 // of the chunks, in the packed file
	Index     uint64 // start of the index
	IndexSize uint64
	IndexHash [sha256.Size]byte
}

const footerSize = 8 + 3*8 + sha256.Size

var magic = [8]byte{'E', 'D', 'G', 'E', 'B', 'O', 'X', 1}

// Payload reads one packed file. It is safe for concurrent use.
type Payload struct {
	disk disk

	file    *os.File
	start   int64
	hash    string
	entries []entry
}

// Open reads the index of the packed file at path. The content of the chunks is
// verified by Unpack and Verify. The file stays open until Close, so replacing
// path meanwhile does no harm.
//
// The error is ErrNoPayload when the file is a bare front, and a *DamagedError
// when something is wrong with it.
func Open(path string) (*Payload, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	p := &Payload{disk: realDisk, file: f}
	if err := p.readIndex(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return p, nil
}

// Close closes the packed file.
func (p *Payload) Close() error { return p.file.Close() }

// Hash is the SHA-256 of the index in hex. Two payloads of one hash hold the same
// files.
func (p *Payload) Hash() string { return p.hash }

// Files lists what the payload holds, sorted by name.
func (p *Payload) Files() []File {
	files := make([]File, len(p.entries))
	for i, e := range p.entries {
		files[i] = e.File
	}
	return files
}

// BinDir is the directory that Unpack(dir) unpacks into.
func (p *Payload) BinDir(dir string) string { return filepath.Join(dir, p.hash[:16]) }

func (p *Payload) readIndex() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	foot, err := readFooter(p.file, info.Size())
	if err != nil {
		return err
	}
	raw := make([]byte, foot.IndexSize)
	if _, err := p.file.ReadAt(raw, int64(foot.Index)); err != nil {
		return fmt.Errorf("read index of %s: %w", p.file.Name(), err)
	}
	sum := sha256.Sum256(raw)
	if sum != foot.IndexHash {
		return p.damaged("its index has another checksum")
	}
	if err := json.Unmarshal(raw, &p.entries); err != nil {
		return p.damaged(err.Error())
	}
	p.hash = hex.EncodeToString(sum[:])
	p.start = int64(foot.Start)
	return p.checkIndex(int64(foot.Index) - p.start)
}

// checkIndex refuses an index that would make Unpack write outside of its
// directory or allocate without bound, or whose chunks are not what lies between
// front and index.
func (p *Payload) checkIndex(chunksSize int64) error {
	var offset int64
	for _, e := range p.entries {
		if err := checkName(e.Name); err != nil {
			return p.damaged(err.Error())
		}
		var size int64
		for _, c := range e.Chunks {
			if c.Size <= 0 || c.Size > chunkSize || c.Compressed <= 0 || c.Compressed > 2*chunkSize || c.Offset != offset {
				return p.damaged(e.Name + " has a chunk out of place")
			}
			offset += c.Compressed
			size += c.Size
		}
		if size != e.Size {
			return p.damaged(e.Name + " has chunks of another size")
		}
	}
	if offset != chunksSize {
		return p.damaged("its chunks have another size")
	}
	return nil
}

func (p *Payload) damaged(reason string) error {
	return &DamagedError{Path: p.file.Name(), Reason: reason}
}

// find returns the entries of the given names, all of them when there are none.
func (p *Payload) find(names []string) ([]entry, error) {
	if len(names) == 0 {
		return p.entries, nil
	}
	byName := make(map[string]entry, len(p.entries))
	for _, e := range p.entries {
		byName[e.Name] = e
	}
	found := make([]entry, 0, len(names))
	for i, name := range names {
		e, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("%s is not in the payload of %s", name, p.file.Name())
		}
		if !slices.Contains(names[:i], name) {
			found = append(found, e)
		}
	}
	return found, nil
}

// checkName accepts what can be a file beside the package's own dot files, and a
// word of the marker.
func checkName(name string) error {
	if name == "" || name[0] == '.' || name != filepath.Base(name) || strings.ContainsAny(name, " \t\r\n") {
		return fmt.Errorf("%q cannot be the name of a payload file", name)
	}
	return nil
}

// readFooter reads and checks the footer of a file of the given size.
func readFooter(f *os.File, size int64) (*footer, error) {
	damaged := func(reason string) error { return &DamagedError{Path: f.Name(), Reason: reason} }

	raw := make([]byte, footerSize)
	if size >= footerSize {
		if _, err := f.ReadAt(raw, size-footerSize); err != nil {
			return nil, fmt.Errorf("read footer of %s: %w", f.Name(), err)
		}
	}
	var foot footer
	if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, &foot); err != nil {
		return nil, err
	}
	if foot.Magic != magic {
		if end, err := elfEnd(f); err != nil || end != size {
			return nil, damaged("its end is missing")
		}
		return nil, ErrNoPayload
	}
	end := uint64(size - footerSize)
	if foot.IndexSize > maxIndexSize || foot.IndexSize > end ||
		foot.Index != end-foot.IndexSize || foot.Start > foot.Index {
		return nil, damaged("its footer is inconsistent")
	}
	return &foot, nil
}

// elfEnd returns the size that an executable has with nothing appended: what
// tells a bare front from a packed file that was cut short.
func elfEnd(r io.ReaderAt) (int64, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return 0, err
	}
	// debug/elf does not give the section header table's place.
	head := make([]byte, 64)
	if _, err := r.ReadAt(head, 0); err != nil {
		return 0, err
	}
	order := f.ByteOrder
	var end uint64
	if f.Class == elf.ELFCLASS64 {
		end = order.Uint64(head[40:]) + uint64(order.Uint16(head[58:]))*uint64(order.Uint16(head[60:]))
	} else {
		end = uint64(order.Uint32(head[32:])) + uint64(order.Uint16(head[46:]))*uint64(order.Uint16(head[48:]))
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS {
			end = max(end, s.Offset+s.FileSize)
		}
	}
	for _, seg := range f.Progs {
		end = max(end, seg.Off+seg.Filesz)
	}
	return int64(end), nil
}
