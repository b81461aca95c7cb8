# Least rights of a bootwell gc in container acme of storage account acmestore.
# Written after the description of Azure by Microsoft of conditions; there is no server to try them on but Azure: look at what bootwell doctor says.
# SUBSCRIPTION and GROUP are those of the account; PRINCIPAL is the object ID of the identity that gets them.
SCOPE="/subscriptions/${SUBSCRIPTION:?}/resourceGroups/${GROUP:?}/providers/Microsoft.Storage/storageAccounts/acmestore/blobServices/default/containers/acme"
az role definition create --role-definition '{
  "Actions": [],
  "AssignableScopes": [
    "/subscriptions/'"$SUBSCRIPTION"'"
  ],
  "DataActions": [
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action",
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete"
  ],
  "Description": "Least rights of a bootwell gc",
  "Name": "acme-web-gc"
}'
az role assignment create --assignee-object-id "${PRINCIPAL:?}" --assignee-principal-type ServicePrincipal --role acme-web-gc --scope "$SCOPE" \
  --condition-version 2.0 --condition "(!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'} AND NOT SubOperationMatches{'Blob.List'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/tuf/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/manifests/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/locks/*'))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'} AND SubOperationMatches{'Blob.List'}) OR (@Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix] StringLike 'prod/tuf/*' OR @Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix] StringLike 'prod/packs/*' OR @Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix] StringLike 'prod/manifests/*' OR @Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix] StringLike 'prod/agents/*' OR @Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix] StringLike 'prod/reports/*' OR @Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix] StringLike 'prod/logs/*'))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/tuf/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/locks/*'))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/tuf/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/locks/*'))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/tuf/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/packs/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/manifests/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/agents/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/reports/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/logs/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/locks/*'))"
