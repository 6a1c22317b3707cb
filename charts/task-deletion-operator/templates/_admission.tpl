{{/* What the API server asks of requests and policies. docs/roles.md and docs/adr/0016-who-may-ask.md say why. */}}

{{- define "task-deletion-operator.account" -}}
{{- printf "system:serviceaccount:%s:%s" .Release.Namespace (include "task-deletion-operator.serviceAccountName" .) }}
{{- end }}

{{/* Requests and policies of the namespaces that are served. All defaults are written out: the digest is over them. */}}
{{- define "task-deletion-operator.admissionConstraints" -}}
matchPolicy: Equivalent
{{- if .Values.watchNamespaces }}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values:
        {{- range .Values.watchNamespaces }}
        - {{ . | quote }}
        {{- end }}
{{- else }}
namespaceSelector: {}
{{- end }}
objectSelector: {}
resourceRules:
  - apiGroups: [datapipeline.dev]
    apiVersions: ["*"]
    operations: [CREATE, UPDATE]
    resources: [taskdeletions, taskretentionpolicies]
    scope: Namespaced
{{- end }}

{{/*
isWritten: a new spec, or a change of one that lets more happen. A stop (suspend: true) and a time to live do not.
stamp, oldStamp: who asked, as the object says and said. For both kinds, and both policies.
*/}}
{{- define "task-deletion-operator.admissionVariables" -}}
- name: spec
  expression: dyn(object.spec)
- name: oldSpec
  expression: "request.operation == 'CREATE' ? {} : dyn(oldObject.spec)"
- name: isWritten
  expression: >-
    request.operation == 'CREATE'
    || !variables.spec.all(key, key == 'ttlSecondsAfterFinished'
    || (key == 'suspend' && variables.spec.suspend)
    || (key in variables.oldSpec && variables.spec[key] == variables.oldSpec[key]))
    || !variables.oldSpec.all(key, key == 'ttlSecondsAfterFinished' || key in variables.spec)
- name: isRequest
  expression: "request.resource.resource == 'taskdeletions'"
- name: stamp
  expression: >-
    has(object.metadata.annotations) && 'datapipeline.dev/requested-by' in object.metadata.annotations
    ? object.metadata.annotations['datapipeline.dev/requested-by'] : ''
- name: oldStamp
  expression: >-
    request.operation == 'UPDATE' && has(oldObject.metadata.annotations)
    && 'datapipeline.dev/requested-by' in oldObject.metadata.annotations
    ? oldObject.metadata.annotations['datapipeline.dev/requested-by'] : ''
{{- end }}

{{- define "task-deletion-operator.admissionSpec" -}}
failurePolicy: Fail
matchConstraints:
  {{- include "task-deletion-operator.admissionConstraints" . | nindent 2 }}
variables:
  {{- include "task-deletion-operator.admissionVariables" . | nindent 2 }}
  - name: options
    expression: >-
      variables.isRequest ? variables.spec : (has(variables.spec.template) ? variables.spec.template : {})
  - name: place
    expression: "variables.isRequest ? 'spec.' : 'spec.template.'"
  - name: mayAsk
    expression: authorizer.group('datapipeline.dev').resource('taskdeletions').namespace(request.namespace)
validations:
  {{- range $field, $verb := dict "force" "force" "deleteDatabaseRecords" "delete-records" }}
  - expression: >-
      !variables.isWritten || !has(variables.options.{{ $field }}) || variables.options.{{ $field }} != true
      || variables.mayAsk.check('{{ $verb }}').allowed()
    messageExpression: >-
      variables.place + '{{ $field }}: true needs the verb "{{ $verb }}" on taskdeletions.datapipeline.dev in namespace '
      + request.namespace + ', which ' + request.userInfo.username + ' does not have. Leave {{ $field }} away, or ask whoever
      grants rights there for {{ include "task-deletion-operator.verbRole" (list $ $verb) }}'
    reason: Forbidden
  {{- end }}
  - expression: >-
      variables.isWritten && (request.operation == 'CREATE' || !variables.isRequest)
      ? (variables.stamp in ['', request.userInfo.username]
      || (variables.isRequest && request.userInfo.username == '{{ include "task-deletion-operator.account" . }}'))
      : variables.stamp == variables.oldStamp
    messageExpression: >-
      'the annotation datapipeline.dev/requested-by says who asked: leave it away, or as it is; '
      + request.userInfo.username + ' cannot make it ' + (variables.stamp == '' ? 'empty' : variables.stamp)
    reason: Forbidden
{{- end }}

{{/* Where a verb comes from, for the sentence of a refusal. Takes the context and the verb. */}}
{{- define "task-deletion-operator.verbRole" -}}
{{- $context := index . 0 }}
{{- if and $context.Values.rbac.create $context.Values.rbac.userRoles -}}
the ClusterRole {{ include "task-deletion-operator.foreignName" $context }}-{{ index . 1 }}
{{- else -}}
a role with that verb
{{- end }}
{{- end }}

{{- define "task-deletion-operator.admissionBindingSpec" -}}
policyName: {{ include "task-deletion-operator.foreignName" . | quote }}
validationActions: [Deny]
{{- end }}

{{/* By this the operator knows that both are as they were made (operator/taskdeletion/domain/admission.py). */}}
{{- define "task-deletion-operator.admissionDigest" -}}
{{- $policy := include "task-deletion-operator.admissionSpec" . | fromYaml }}
{{- $binding := include "task-deletion-operator.admissionBindingSpec" . | fromYaml }}
{{- dict "policy" $policy "binding" $binding | toRawJson | sha256sum }}
{{- end }}

{{/* "true" where who asked is stamped: where the API server can, unless the values say otherwise. */}}
{{- define "task-deletion-operator.stamps" -}}
{{- $served := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" }}
{{- and .Values.admission.enabled (or (eq .Values.admission.stampRequester "always") (and $served (eq .Values.admission.stampRequester "auto"))) }}
{{- end }}
