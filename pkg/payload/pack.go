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

// A Compressor returns raw as one zstd frame, with zstd's checksum. It must be
// deterministic and is called from several goroutines.
type Compressor func(raw []byte) ([]byte, error)

// Fast is the Compressor for daily builds.
func Fast() Compressor {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(maxFrameSize))
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
	return packFile(out, front, files, &layout{bigFile: bigFile}, compress)
}

func packFile(out, front string, files []string, l *layout, compress Compressor) error {
	tmp, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	defer tmp.Close()

	if err := pack(tmp, front, files, l, compress); err != nil {
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

func pack(w io.Writer, front string, files []string, l *layout, compress Compressor) error {
	start, err := copyFront(w, front)
	if err != nil {
		return err
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b string) int {
		return strings.Compare(filepath.Base(a), filepath.Base(b))
	})
	for i, path := range files {
		if i > 0 && filepath.Base(path) == filepath.Base(files[i-1]) {
			return fmt.Errorf("%s and %s have one name", files[i-1], path)
		}
		if err := l.add(path); err != nil {
			return err
		}
	}

	frames := make([][]byte, len(l.contents))
	err = parallel(len(frames), func(i int, _ *scratch) (err error) {
		frames[i], err = compress(l.contents[i])
		return err
	})
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	end := start
	for i, f := range frames {
		if _, err := w.Write(f); err != nil {
			return err
		}
		l.index.Frames = append(l.index.Frames, frame{
			Compressed: int64(len(f)),
			Size:       int64(len(l.contents[i])),
			SHA256:     sum(f),
		})
		end += int64(len(f))
	}

	index, err := json.Marshal(l.index)
	if err != nil {
		return err
	}
	if _, err := w.Write(index); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, footer{
		Magic:     magic,
		Start:     uint64(start),
		Index:     uint64(end),
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

// layout decides which content lies in which frame. It holds everything in memory.
type layout struct {
	bigFile  int // see the constant
	index    index
	contents [][]byte // of the frames
	shared   int      // 1 + the frame that small files go to, if any yet
}

func (l *layout) add(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	e := entry{File: File{Name: filepath.Base(path), Mode: 0o644, Size: int64(len(raw)), SHA256: sum(raw)}}
	if info.Mode()&0o111 != 0 {
		e.Mode = 0o755
	}
	if err := checkName(e.Name); err != nil {
		return err
	}
	for piece := range slices.Chunk(raw, chunkSize) {
		c := chunk{Size: int64(len(piece)), SHA256: sum(piece)}
		if len(raw) >= l.bigFile {
			c.Frame = len(l.contents)
			l.contents = append(l.contents, piece)
		} else {
			c.Frame, c.At = l.share(piece)
		}
		e.Chunks = append(e.Chunks, c)
	}
	l.index.Files = append(l.index.Files, e)
	return nil
}

// share appends a piece of a small file to the frame of small files.
func (l *layout) share(piece []byte) (frame int, at int64) {
	if l.shared == 0 || len(l.contents[l.shared-1])+len(piece) > maxFrameSize {
		l.contents = append(l.contents, nil)
		l.shared = len(l.contents)
	}
	content := &l.contents[l.shared-1]
	at = int64(len(*content))
	*content = append(*content, piece...)
	return l.shared - 1, at
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
