// Package payload is how the one file `edgebox` is made and unpacked: a small
// front executable, followed by everything else that the product runs (the
// node, kubectl, runc, nft, …) as compressed chunks.
//
// The file, from its start:
//
//	front    the ELF executable that the user runs
//	frames   independent zstd frames
//	index    JSON: the frames; per file its name, mode, size, SHA-256 and chunks
//	footer   64 bytes: magic, where frames and index begin, SHA-256 of the index
//
// A big file has a frame per chunk, so that it is decompressed and checked on all
// cores. The small ones share a frame: Go programs hold much of the same code, and
// together the helper binaries take 40 % less. The SHA-256 of every frame and chunk
// is in the index, and the index's own SHA-256 names the directory that files are
// unpacked into, so one hash stands for all of it.
//
// The payload is appended to the front and not embedded by the compiler: a plain
// `go build` needs no artefact and gives a front that works without one
// (ErrNoPayload).
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

type index struct {
	Frames []frame `json:"frames"`
	Files  []entry `json:"files"`
}

// frame is a zstd frame. Its place follows from the frames before it.
type frame struct {
	Compressed int64  `json:"compressed"`
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"` // compressed
}

// entry is a File with where its content is.
type entry struct {
	File
	Chunks []chunk `json:"chunks"`
}

// chunk is a piece of a file. Its place in the file follows from the chunks before
// it.
type chunk struct {
	Frame  int    `json:"frame"` // that holds it
	At     int64  `json:"at"`    // in the content of the frame
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

const (
	// chunkSize is how much of a big file a frame holds. Smaller lets more
	// cores share a file; bigger hardly compresses better (1 % for 32 MiB).
	chunkSize = 4 << 20

	// maxFrameSize is how much of small files one frame holds at most, and
	// thus the memory that one core needs.
	maxFrameSize = 64 << 20

	// bigFile is the size from which a file has frames of its own.
	bigFile = 24 << 20

	maxIndexSize = 16 << 20
)

// footer ends a packed file. All integers are little-endian. The index does not
// say where the frames start, so the hash does not depend on the size of the front.
type footer struct {
	Magic     [8]byte
	Start     uint64 // of the frames, in the packed file
	Index     uint64 // start of the index
	IndexSize uint64
	IndexHash [sha256.Size]byte
}

const footerSize = 8 + 3*8 + sha256.Size

var magic = [8]byte{'E', 'D', 'G', 'E', 'B', 'O', 'X', 1}

// Payload reads one packed file. It is safe for concurrent use.
type Payload struct {
	disk disk

	file   *os.File
	hash   string
	index  index
	starts []int64 // of the frames, in the packed file
}

// Open reads the index of the packed file at path. The content of the files is
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
	files := make([]File, len(p.index.Files))
	for i, e := range p.index.Files {
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
	if err := json.Unmarshal(raw, &p.index); err != nil {
		return p.damaged(err.Error())
	}
	p.hash = hex.EncodeToString(sum[:])
	return p.checkIndex(int64(foot.Start), int64(foot.Index))
}

// checkIndex notes where the frames, which lie between start and end, begin. It
// refuses an index that would make Unpack write outside of its directory or allocate
// without bound.
func (p *Payload) checkIndex(start, end int64) error {
	for _, f := range p.index.Frames {
		if f.Size <= 0 || f.Size > maxFrameSize || f.Compressed <= 0 || f.Compressed > end-start {
			return p.damaged("it has a frame out of range")
		}
		p.starts = append(p.starts, start)
		start += f.Compressed
	}
	if start != end {
		return p.damaged("its frames have another size")
	}
	for _, e := range p.index.Files {
		if err := checkName(e.Name); err != nil {
			return p.damaged(err.Error())
		}
		var size int64
		for _, c := range e.Chunks {
			if c.Frame < 0 || c.Frame >= len(p.index.Frames) || c.Size <= 0 || c.Size > chunkSize ||
				c.At < 0 || c.At > p.index.Frames[c.Frame].Size-c.Size {
				return p.damaged(e.Name + " has a chunk out of range")
			}
			size += c.Size
		}
		if size != e.Size {
			return p.damaged(e.Name + " has chunks of another size")
		}
	}
	return nil
}

func (p *Payload) damaged(reason string) error {
	return &DamagedError{Path: p.file.Name(), Reason: reason}
}

// find returns the entries of the given names, all of them when there are none.
func (p *Payload) find(names []string) ([]entry, error) {
	if len(names) == 0 {
		return p.index.Files, nil
	}
	byName := make(map[string]entry, len(p.index.Files))
	for _, e := range p.index.Files {
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
