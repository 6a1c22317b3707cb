{{- define "task-deletion-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "task-deletion-operator.fullname" -}}
{{- $name := include "task-deletion-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "task-deletion-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "task-deletion-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "task-deletion-operator.labels" -}}
{{ include "task-deletion-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "task-deletion-operator.serviceAccountName" -}}
{{- default (include "task-deletion-operator.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{/* Names of objects outside the release's namespace: two releases in different namespaces must not share them. */}}
{{- define "task-deletion-operator.foreignName" -}}
{{- printf "%s-%s" .Release.Namespace (include "task-deletion-operator.fullname" .) }}
{{- end }}

{{- define "task-deletion-operator.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* All that the operator may do: the same rules cluster-wide and per namespace. docs/install.md says what each is for. */}}
{{- define "task-deletion-operator.rules" -}}
- apiGroups: [datapipeline.dev]
  resources: [taskdeletions]
  verbs: [get, list, watch, create, patch, delete, force, delete-records]
- apiGroups: [datapipeline.dev]
  resources: [taskdeletions/status]
  verbs: [get, patch]
- apiGroups: [datapipeline.dev]
  resources: [taskretentionpolicies]
  verbs: [get, list, watch]
- apiGroups: [datapipeline.dev]
  resources: [taskretentionpolicies/status]
  verbs: [get, patch]
- apiGroups: [datapipeline.dev]
  resources: [taskstores]
  verbs: [get, list, watch]
- apiGroups: [datapipeline.dev]
  resources: [taskstores/status]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.rbac.secretNames }}
  resourceNames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "task-deletion-operator.admissionName" -}}
{{- printf "%s-admission" (include "task-deletion-operator.foreignName" .) }}
{{- end }}

{{/* To see whether the admission policy is in place: the two objects of this release, and no others. */}}
{{- define "task-deletion-operator.admissionRules" -}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [validatingadmissionpolicies, validatingadmissionpolicybindings]
  resourceNames: [{{ include "task-deletion-operator.foreignName" . | quote }}]
  verbs: [get]
{{- end }}

{{- define "task-deletion-operator.metricsName" -}}
{{- printf "%s-metrics" (include "task-deletion-operator.fullname" . | trunc 55 | trimSuffix "-") }}
{{- end }}

{{- define "task-deletion-operator.leaderName" -}}
{{- printf "%s-leader" (include "task-deletion-operator.fullname" .) }}
{{- end }}

{{/* What leader election needs, in the release's namespace only. A creation cannot be limited to a name. */}}
{{- define "task-deletion-operator.leaderRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "task-deletion-operator.fullname" . | quote }}]
  verbs: [get, patch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
{{- end }}

{{/*
"true" where new pods may begin beside the old ones. Not where there is no election, nor where the pods of the cluster
know of none: those would go on working beside an elected leader. And a single replica may be the only one that can mount
its claims. Where Helm sees no cluster (helm template, Argo CD) it cannot see those pods either.
*/}}
{{- define "task-deletion-operator.isRolling" -}}
{{- $elects := and .Values.leaderElection.enabled (gt (.Values.replicas | int64) 1) }}
{{- range (lookup "apps/v1" "Deployment" .Release.Namespace (include "task-deletion-operator.fullname" .)).spec | default dict | dig "template" "spec" "containers" list }}
{{- $known := false }}
{{- range .env }}
{{- if and (eq .name "TASKDELETION_LEADER_ELECTION") (eq (.value | default "") "true") }}
{{- $known = true }}
{{- end }}
{{- end }}
{{- $elects = and $elects (or $known (ne .name "operator")) }}
{{- end }}
{{- $elects }}
{{- end }}
