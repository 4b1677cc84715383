{{/* A value as JSON, the only way a value reaches a manifest; escapes what YAML does not allow inside quotes. */}}
{{- define "clip-operator.json" -}}
{{- $json := toJson . -}}
{{- range $code := untilStep 127 160 1 -}}
{{- $json = replace (printf "%c" $code) (printf "\\u%04x" $code) $json -}}
{{- end -}}
{{- range $code := list 65534 65535 -}}
{{- $json = replace (printf "%c" $code) (printf "\\u%04x" $code) $json -}}
{{- end -}}
{{- $json -}}
{{- end -}}

{{- define "clip-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "clip-operator.serviceAccount" -}}
{{- default (include "clip-operator.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "clip-operator.selector" -}}
app.kubernetes.io/name: clip-operator
app.kubernetes.io/instance: {{ include "clip-operator.json" .Release.Name }}
{{- end -}}

{{- define "clip-operator.labels" -}}
{{ include "clip-operator.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ include "clip-operator.json" .Chart.AppVersion }}
app.kubernetes.io/part-of: clipctl
app.kubernetes.io/managed-by: {{ include "clip-operator.json" .Release.Service }}
helm.sh/chart: {{ include "clip-operator.json" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- end -}}

{{- define "clip-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Exactly what the operator does in a namespace with runs; tests compare it with the calls of the code. */}}
{{- define "clip-operator.rules" -}}
- apiGroups: [kubeflow.org]
  resources: [pytorchjobs]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}
