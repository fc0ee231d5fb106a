package controlplane

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/openapi"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/edgebox/edgebox/pkg/version"
)

// serveOpenAPIWhenAsked adds the OpenAPI documents of the built-in resources to the API server, each made when it is
// asked for. Upstream makes them all at every start and keeps them: a second, and a fifth of the heap. The aggregator in
// front merges these in turn.
func serveOpenAPIWhenAsked(aggregator *genericapiserver.GenericAPIServer, v2 *common.Config, v3 *common.OpenAPIV3Config) error {
	server, ok := aggregator.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return fmt.Errorf("behind the aggregator is a %T, not an API server", aggregator.NextDelegate())
	}
	services := server.Handler.GoRestfulContainer.RegisteredWebServices()
	serveOpenAPIV2(server.Handler.NonGoRestfulMux, services, v2)
	return serveOpenAPIV3(server.Handler.NonGoRestfulMux, services, v3)
}

// narrowDefinitions gives the servers on both sides of the built-in resources the definitions of their own types for
// version 2. Upstream has each of them make those of all of Kubernetes, at every start.
func narrowDefinitions(c *app.Config) {
	for conf, own := range map[**common.Config]common.GetOpenAPIDefinitions{
		&c.ApiExtensions.GenericConfig.OpenAPIConfig: apiextensionsopenapi.GetOpenAPIDefinitions,
		&c.Aggregator.GenericConfig.OpenAPIConfig:    aggregatoropenapi.GetOpenAPIDefinitions,
	} {
		narrow := **conf
		narrow.GetDefinitions = openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(own)
		*conf = &narrow
	}
}

// forgetDefinitions keeps the definitions of all types from staying in memory. The builders of kube-openapi put a function
// into a configuration that has none, and it holds on to what the first document was built from.
func forgetDefinitions(v2 *common.Config, v3 *common.OpenAPIV3Config) {
	operation := func(r common.Route) (string, []string, error) {
		adapter, ok := r.(*restfuladapter.RouteAdapter)
		if !ok {
			return "", nil, fmt.Errorf("%s %s is a %T", r.Method(), r.Path(), r)
		}
		return apiopenapi.GetOperationIDAndTags(adapter.Route)
	}
	v2.GetOperationIDAndTagsFromRoute, v3.GetOperationIDAndTagsFromRoute = operation, operation
}

// serveOpenAPIV2 makes its one document at the first request. Clients of today, which read version 3, hardly ask for it.
func serveOpenAPIV2(m *mux.PathRecorderMux, services []*restful.WebService, conf *common.Config) {
	swagger := cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		s, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), conf)
		if err != nil {
			return nil, "", err
		}
		s.Definitions = handler.PruneDefaults(s.Definitions)
		return s, "built-in", nil
	}))
	handler.NewOpenAPIServiceLazy(swagger).RegisterOpenAPIVersionedService("/openapi/v2", m)
}

// openAPIV3Root is the path of the list of documents, and the beginning of theirs.
const openAPIV3Root = "/openapi/v3"

// openAPIV3 serves one document for each group and version, made anew for each request. Clients keep what they got by
// the hash in its URL, which here is one of what the document is made from.
type openAPIV3 struct {
	services    map[string]*restful.WebService // by path, such as apis/apps/v1
	hashes      map[string]string
	conf        common.OpenAPIV3Config
	definitions whileUsed[map[string]common.OpenAPIDefinition]
}

func serveOpenAPIV3(m *mux.PathRecorderMux, services []*restful.WebService, conf *common.OpenAPIV3Config) error {
	o := &openAPIV3{services: map[string]*restful.WebService{}, hashes: map[string]string{}, conf: *conf}
	o.conf.Definitions = nil
	o.definitions.make = func() map[string]common.OpenAPIDefinition {
		return conf.GetDefinitions(func(name string) spec.Ref {
			name, _ = conf.GetDefinitionName(name)
			return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(name))
		})
	}
	root := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	for _, s := range services {
		path := strings.TrimPrefix(s.RootPath(), "/")
		o.services[path], o.hashes[path] = s, hashOf(s)
		root.Paths[path] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: o.url(path)}
	}
	list, err := json.Marshal(root)
	if err != nil {
		return err
	}
	m.HandleFunc(openAPIV3Root, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(list) // the client has gone
	})
	m.HandlePrefix(openAPIV3Root+"/", o)
	return nil
}

// hashOf tells apart the documents of different versions, settings and sets of resources.
func hashOf(s *restful.WebService) string {
	var routes []string
	for _, r := range s.Routes() {
		routes = append(routes, r.Method+" "+r.Path)
	}
	slices.Sort(routes)
	sum := sha256.Sum256(fmt.Appendln(nil, version.Kubernetes, version.Commit, utilfeature.DefaultMutableFeatureGate, strings.Join(routes, "\n")))
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func (o *openAPIV3) url(path string) string {
	return openAPIV3Root + "/" + path + "?" + url.Values{"hash": {o.hashes[path]}}.Encode()
}

func (o *openAPIV3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, openAPIV3Root+"/")
	service, ok := o.services[path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if hash := r.URL.Query().Get("hash"); hash == o.hashes[path] {
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	} else if hash != "" {
		http.Redirect(w, r, o.url(path), http.StatusMovedPermanently)
		return
	}
	alone := restful.NewContainer()
	alone.Add(service)
	conf := o.conf
	conf.Definitions = o.definitions.get()
	m := mux.NewPathRecorderMux("openapi")
	routes.OpenAPI{V3Config: &conf}.InstallV3(alone, m)
	r = r.Clone(r.Context())
	r.URL.RawQuery = "" // upstream's own hash would be another one
	m.ServeHTTP(w, r)
}

// keepUnused is how long a whileUsed holds what nobody asks for.
const keepUnused = time.Minute

// whileUsed holds a value that is expensive to make and to keep.
type whileUsed[T any] struct {
	make func() T

	mu      sync.Mutex
	value   *T
	expires *time.Timer
}

func (u *whileUsed[T]) get() T {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.value == nil {
		v := u.make()
		u.value = &v
		u.expires = time.AfterFunc(keepUnused, func() {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.value = nil
		})
	}
	u.expires.Reset(keepUnused)
	return *u.value
}
