package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// A FileError says which file cannot be used, what is wrong with it, and what to do.
type FileError struct {
	Path    string
	Problem string // "is not a CA certificate"; may be empty if Err says it all
	Fix     string // "replace it by …"
	Err     error  // what the system or a parser said; may be nil
}

// Error gives the parts in one line.
func (e *FileError) Error() string {
	problem := e.Problem
	if e.Err != nil {
		problem = strings.TrimPrefix(problem+": "+e.Err.Error(), ": ")
	}
	return fmt.Sprintf("%s: %s: %s", e.Path, problem, e.Fix)
}

// Unwrap returns Err.
func (e *FileError) Unwrap() error { return e.Err }

// readFile reads the file at path. If there is none, the data is nil, without an error; anything else that prevents reading is a
// FileError.
func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	switch {
	case err == nil && data == nil:
		return []byte{}, nil
	case errors.Is(err, fs.ErrNotExist):
		// A link into a file system that is not mounted must not pass for nothing: it would be replaced.
		if target, err := os.Readlink(path); err == nil {
			return nil, &FileError{Path: path, Problem: "is a link to " + target + ", which is missing", Fix: "bring that file back or remove the link"}
		}
		return nil, nil
	case err != nil:
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, &FileError{Path: path, Problem: "cannot be read", Err: err, Fix: "make it a readable file or remove it"}
	}
	return data, nil
}
