package payload

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// A Compressor returns raw as one zstd frame. It must be deterministic and is
// called from several goroutines.
type Compressor func(raw []byte) ([]byte, error)

// Fast is the Compressor for daily builds.
func Fast() Compressor {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // only for options that contradict each other
	}
	return func(raw []byte) ([]byte, error) { return enc.EncodeAll(raw, nil), nil }
}

// Pack writes the executable out: the ELF file front with the files appended. A
// file is named after the last element of its path; of its mode only the execute
// bit is kept. The same input gives the same bytes. out appears whole or not at
// all.
func Pack(out, front string, files []string, compress Compressor) error {
	tmp, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	defer tmp.Close()

	if err := pack(tmp, front, files, compress); err != nil {
		return fmt.Errorf("pack %s: %w", out, err)
	}
	if err := tmp.Chmod(0o755); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), out)
}

func pack(w io.Writer, front string, files []string, compress Compressor) error {
	start, err := copyFront(w, front)
	if err != nil {
		return err
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b string) int {
		return strings.Compare(filepath.Base(a), filepath.Base(b))
	})

	entries := make([]entry, 0, len(files))
	var size int64
	for i, path := range files {
		if i > 0 && filepath.Base(path) == filepath.Base(files[i-1]) {
			return fmt.Errorf("%s and %s have one name", files[i-1], path)
		}
		e, err := packFile(w, size, path, compress)
		if err != nil {
			return err
		}
		for _, c := range e.Chunks {
			size += c.Compressed
		}
		entries = append(entries, e)
	}

	index, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	if _, err := w.Write(index); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, footer{
		Magic:     magic,
		Start:     uint64(start),
		Index:     uint64(start + size),
		IndexSize: uint64(len(index)),
		IndexHash: sha256.Sum256(index),
	})
}

func copyFront(w io.Writer, front string) (int64, error) {
	f, err := os.Open(front)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if _, err := readFooter(f, info.Size()); !errors.Is(err, ErrNoPayload) {
		return 0, fmt.Errorf("%s is not a bare executable", front)
	}
	return io.Copy(w, f)
}

// packFile appends the file's chunks to w, the first of them at offset. It holds
// the whole file in memory, compressed and not.
func packFile(w io.Writer, offset int64, path string, compress Compressor) (entry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return entry{}, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return entry{}, err
	}
	e := entry{File: File{Name: filepath.Base(path), Mode: 0o644, Size: int64(len(raw)), SHA256: sum(raw)}}
	if info.Mode()&0o111 != 0 {
		e.Mode = 0o755
	}
	if err := checkName(e.Name); err != nil {
		return entry{}, err
	}

	pieces := slices.Collect(slices.Chunk(raw, chunkSize))
	frames := make([][]byte, len(pieces))
	err = parallel(len(pieces), func(i int, _ *scratch) (err error) {
		frames[i], err = compress(pieces[i])
		return err
	})
	if err != nil {
		return entry{}, fmt.Errorf("compress %s: %w", path, err)
	}
	for i, frame := range frames {
		if _, err := w.Write(frame); err != nil {
			return entry{}, err
		}
		e.Chunks = append(e.Chunks, chunk{
			Offset:     offset,
			Compressed: int64(len(frame)),
			Size:       int64(len(pieces[i])),
			SHA256:     sum(pieces[i]),
		})
		offset += int64(len(frame))
	}
	return e, nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
