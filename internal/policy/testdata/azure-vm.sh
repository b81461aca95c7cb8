# Least rights of a bootwell vm in container acme of storage account acmestore.
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
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action"
  ],
  "Description": "Least rights of a bootwell vm",
  "Name": "acme-web-vm"
}'
az role assignment create --assignee-object-id "${PRINCIPAL:?}" --assignee-principal-type ServicePrincipal --role acme-web-vm --scope "$SCOPE" \
  --condition-version 2.0 --condition "(!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'} AND NOT SubOperationMatches{'Blob.List'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/tuf/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/packs/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/manifests/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/agents/*'))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'} AND SubOperationMatches{'Blob.List'}))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/reports/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/logs/*'))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/reports/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/logs/*'))"
